"""Who may connect: authority, node keys, admitted keys, and where private parts are kept."""
