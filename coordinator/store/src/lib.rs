//! The coordinator's durable state behind one domain transaction.
