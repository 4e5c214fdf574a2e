//! A message as bytes with a map: header fields by offset, MIME parts by mail-parser.
