"""The resources and their helpers. This file marks the folder as a package of this project."""
