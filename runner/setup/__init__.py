"""What a bare GPU machine needs to become a runner. Each script here stands alone: install.sh copies it to /opt/sprintbench."""
