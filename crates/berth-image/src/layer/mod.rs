//! Layers: from the stream of a blob to a tree.
