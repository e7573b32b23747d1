//! SQLite store: one writer thread with group commit, a reader, migrations per owner
