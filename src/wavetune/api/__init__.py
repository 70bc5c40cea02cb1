"""What `import wavetune` offers, a file a function; the command line is a layer over them."""
