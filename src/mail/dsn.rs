//! Delivery status notifications (RFC 3461-3464), composed with lettre.
