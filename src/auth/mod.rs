//! Owns who a request says it is: the deployment named by a token.

mod token;

pub use token::{MAX_TOKEN_BYTES, TokenError, deployment};
