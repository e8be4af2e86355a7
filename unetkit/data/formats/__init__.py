"""One file a family of formats: each reads, looks at the header only, and where it can, writes."""
