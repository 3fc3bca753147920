//! What a path may look like.
