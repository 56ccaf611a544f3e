"""The workbench from Python; its names are those of `import metarl`."""
