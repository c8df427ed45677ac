//! Client library of the ringfold.v1 API.
