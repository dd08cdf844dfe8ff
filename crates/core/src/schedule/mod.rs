//! What runs next: continuous batching over paged memory.
