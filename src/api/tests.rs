//! Properties of the definitions as a whole.
