//! Requirements of this part, one test each, named by its number (see docs/requirements.md).
