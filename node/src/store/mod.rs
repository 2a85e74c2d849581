//! What must survive a power cut: log, vote, snapshots, blobs, history (PROTOCOL 6).
