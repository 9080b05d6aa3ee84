"""The programs here are wrong on purpose: einfall's pytest plugin must not run them."""

collect_ignore_glob = ["*.ecs"]
