//! Placeholder for the tests of the whole host.
