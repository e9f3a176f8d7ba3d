//! Owns what the load of streamed answers and that of functions read of HTTP/1.1.

pub(crate) mod body;
pub(crate) mod head;
