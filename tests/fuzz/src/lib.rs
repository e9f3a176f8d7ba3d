//! Owns what the targets share: naive models that say what is right, and brokers without sockets to ask.

pub mod front;
pub mod head;
pub mod json;
