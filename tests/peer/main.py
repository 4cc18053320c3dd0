"""The same work in FastAPI, for tests/compare.py: a yardstick, not an API to deploy.

It has the requests that the comparison sends, with the same checks of the token, the same queries,
the same durability of writes and the same deadline as this project. It has no rate limits, no limit
on concurrent hashes, and none of the rules for bad input.
"""

import asyncio
import os
import uuid
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Annotated

import jwt
import pymongo
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from bson import ObjectId
from fastapi import Depends, FastAPI, HTTPException, Query, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from pymongo import AsyncMongoClient
from pymongo.errors import DuplicateKeyError

SECRET = os.environ["JWT_SECRET_KEY"]
ALGORITHM = "HS256"

client = AsyncMongoClient(os.environ["MONGODB_URI"], w="majority", journal=True, connect=False)
db = client.get_default_database("todolistapp")
hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@asynccontextmanager
async def lifespan(_app: FastAPI):
    await db.users.create_index("username", unique=True)
    await db.todos.create_index([("owner_id", 1), ("created_at", 1), ("_id", 1)])
    yield
    await client.close()


class Deadline:
    """A function around the app: all operations of a request together have 3.5 seconds."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        with pymongo.timeout(3.5):
            await self.app(scope, receive, send)


app = FastAPI(lifespan=lifespan)
app.add_middleware(Deadline)
bearer = HTTPBearer()


class Credentials(BaseModel):
    username: str = Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    password: str = Field(min_length=8, max_length=256)


class Tokens(BaseModel):
    access_token: str
    refresh_token: str


class NewTodo(BaseModel):
    name: str = Field(min_length=1, max_length=200)
    description: str = Field(default="", max_length=10_000)
    done: bool = False


class Todo(NewTodo):
    id: str
    created_at: datetime


class Page(BaseModel):
    todos: list[Todo]
    next: str | None


class Caller(BaseModel):
    user_id: str
    session_id: str


def to_todo(document: dict) -> Todo:
    return Todo(id=str(document["_id"]), **document)


async def is_open(caller: Caller) -> bool:
    """Whether the caller's session has not ended."""
    # By `_id` alone, as this project does.
    user = await db.users.find_one({"_id": ObjectId(caller.user_id)}, projection=["sessions"])
    return user is not None and caller.session_id in user["sessions"]


async def current_caller(
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)],
) -> Caller:
    try:
        claims = jwt.decode(credentials.credentials, SECRET, algorithms=[ALGORITHM])
    except jwt.InvalidTokenError:
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "invalid token")
    caller = Caller(user_id=claims["sub"], session_id=claims["sid"])
    if claims["type"] != "access" or not await is_open(caller):
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "invalid token")
    return caller


CurrentCaller = Annotated[Caller, Depends(current_caller)]


def create_token(user_id: str, session_id: str, kind: str, lifetime: timedelta) -> str:
    now = datetime.now(timezone.utc)
    claims = {
        "sub": user_id,
        "sid": session_id,
        "jti": str(uuid.uuid4()),
        "type": kind,
        "fresh": kind == "access",
        "iat": now,
        "nbf": now,
        "exp": now + lifetime,
    }
    return jwt.encode(claims, SECRET, algorithm=ALGORITHM)


@app.post("/register", status_code=status.HTTP_201_CREATED)
async def register(new: Credentials) -> dict[str, str]:
    password_hash = await asyncio.to_thread(hasher.hash, new.password)
    user = {"username": new.username, "password": password_hash, "sessions": []}
    try:
        await db.users.insert_one(user)
    except DuplicateKeyError:
        raise HTTPException(status.HTTP_409_CONFLICT, "username taken")
    return {"message": "User created successfully."}


@app.post("/login")
async def login(credentials: Credentials) -> Tokens:
    user = await db.users.find_one({"username": credentials.username})
    if user is None:
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "wrong username or password")
    try:
        await asyncio.to_thread(hasher.verify, user["password"], credentials.password)
    except VerifyMismatchError:
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "wrong username or password")
    session_id = str(uuid.uuid4())
    update = {"$push": {"sessions": {"$each": [session_id], "$slice": -100}}}
    await db.users.update_one({"_id": user["_id"], "password": user["password"]}, update)
    user_id = str(user["_id"])
    return Tokens(
        access_token=create_token(user_id, session_id, "access", timedelta(minutes=15)),
        refresh_token=create_token(user_id, session_id, "refresh", timedelta(days=30)),
    )


@app.get("/user/{username}")
async def get_user(username: str, caller: CurrentCaller) -> dict[str, str]:
    query = {"_id": ObjectId(caller.user_id), "username": username}
    if await db.users.find_one(query) is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "not found")
    return {"id": caller.user_id, "username": username}


@app.get("/todos")
async def list_todos(
    caller: CurrentCaller, limit: Annotated[int, Query(ge=1, le=100)] = 50
) -> Page:
    cursor = db.todos.find({"owner_id": ObjectId(caller.user_id)})
    documents = await cursor.sort([("created_at", 1), ("_id", 1)]).limit(limit + 1).to_list()
    page = documents[:limit]
    link = None
    if len(documents) > limit:
        link = f"/todos?limit={limit}&after={page[-1]['created_at'].isoformat()}_{page[-1]['_id']}"
    return Page(todos=[to_todo(document) for document in page], next=link)


@app.post("/todos", status_code=status.HTTP_201_CREATED)
async def add_todo(new: NewTodo, caller: CurrentCaller) -> Todo:
    now = datetime.now(timezone.utc)
    document = {"owner_id": ObjectId(caller.user_id), **new.model_dump(), "created_at": now}
    await db.todos.insert_one(document)
    # As this project does, for a user who is deleted at the same time.
    if not await is_open(caller):
        await db.todos.delete_one({"_id": document["_id"]})
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "invalid token")
    return to_todo(document)


@app.get("/todos/{todo_id}")
async def get_todo(todo_id: str, caller: CurrentCaller) -> Todo:
    if not ObjectId.is_valid(todo_id):
        raise HTTPException(status.HTTP_404_NOT_FOUND, "not found")
    query = {"_id": ObjectId(todo_id), "owner_id": ObjectId(caller.user_id)}
    document = await db.todos.find_one(query)
    if document is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "not found")
    return to_todo(document)
