"""The language: immutable terms that say which query position attends which key position."""
