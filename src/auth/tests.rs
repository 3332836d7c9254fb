//! Two authorities face to face.
