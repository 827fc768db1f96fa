"""The local SSD cache shared by every process of the user on the host."""
