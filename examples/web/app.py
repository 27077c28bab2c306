"""A guest book: one page with a form, its entries in a SQLite file that outlives the container."""

import os
import socket
import sqlite3
import sys
import time

from flask import Flask, redirect, render_template, request
from waitress import serve

VERSION = os.environ.get("VERSION", "development")
DATABASE = os.path.join(os.environ.get("DATA", "/data"), "guestbook.db")

app = Flask(__name__)


def database() -> sqlite3.Connection:
    """Open the guest book; the first opening makes its table."""
    connection = sqlite3.connect(DATABASE, timeout=10)
    connection.execute("CREATE TABLE IF NOT EXISTS entries (at REAL, name TEXT, words TEXT)")
    return connection


@app.get("/")
def page() -> str:
    """Show the newest entries, the version that runs and the container that answers."""
    with database() as book:
        entries = book.execute("SELECT at, name, words FROM entries ORDER BY at DESC LIMIT 20").fetchall()
        (count,) = book.execute("SELECT count(*) FROM entries").fetchone()
    html = render_template("index.html", entries=entries, count=count, version=VERSION, host=socket.gethostname())
    return html + "\n"  # which Jinja drops, and a terminal after curl misses


@app.post("/")
def sign():
    """Add an entry and show the page again."""
    name, words = request.form.get("name", "").strip()[:80], request.form.get("words", "").strip()[:500]
    if words:
        with database() as book:
            book.execute("INSERT INTO entries VALUES (?, ?, ?)", (time.time(), name or "anonymous", words))
        print(f"signed by {name or 'anonymous'}", file=sys.stderr)
    return redirect("/")


@app.get("/health")
def health() -> dict[str, str]:
    """Say that the application answers and can read its data."""
    with database() as book:
        book.execute("SELECT 1 FROM entries LIMIT 1")
    return {"status": "ok", "version": VERSION}


@app.template_filter("when")
def when(seconds: float) -> str:
    """Write a time as a reader expects it."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "80"))
    print(f"guest book {VERSION} listens on port {port}", file=sys.stderr)
    serve(app, host="0.0.0.0", port=port, threads=4)
