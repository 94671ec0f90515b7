//! The berth command: argument parsing and printing.
