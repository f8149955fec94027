//! controlled
