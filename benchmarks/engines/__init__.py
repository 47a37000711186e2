"""The engines that are measured side by side, each a process with an environment of its own."""
