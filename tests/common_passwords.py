# /// script
# dependencies = ["django==5.2.*", "zxcvbn==4.5.0"]
# ///
"""Generate resources/common_passwords.txt from the lists of Django and zxcvbn.

    uv run tests/common_passwords.py

uv installs the packages of the comment above into a separate environment.
"""

import gzip
from pathlib import Path

import django.contrib.auth
from zxcvbn.frequency_lists import FREQUENCY_LISTS

django_list = Path(django.contrib.auth.__file__).with_name("common-passwords.txt.gz")
found = gzip.decompress(django_list.read_bytes()).decode().splitlines()
found += FREQUENCY_LISTS["passwords"]
# A shorter password is rejected anyway. What is not ASCII in these lists was decoded wrongly.
common = {password.lower() for password in found if len(password) >= 8 and password.isascii()}
lines = [f"{password}\n" for password in sorted(common)]
target = Path(__file__).parent.parent / "resources" / "common_passwords.txt"
target.write_text("".join(lines), encoding="utf-8", newline="\n")
print(f"{len(lines):,} passwords")
