//! The wire: ringfold.v1 messages and services, and their conversions to the types of common.
