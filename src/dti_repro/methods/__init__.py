"""Ways to learn a word. One file and one yaml in conf/method for each."""
