//! What only a leader does (PROTOCOL 1 to 5).
