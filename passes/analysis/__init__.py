"""Facts about a cascade that rewrites query; nothing is changed."""
