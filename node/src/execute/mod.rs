//! Executor and supervisor: running tasks as processes (PROTOCOL 5).
