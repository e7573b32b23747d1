//! Types of the Docker Engine API as its clients see them on the wire
