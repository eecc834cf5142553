"""The machine: memory hot-plug, zones and nodes, watermarks, notifiers, blocks, and its /proc and lsmem texts."""
