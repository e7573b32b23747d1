//! Networks: bridge, host, none; addresses, ports, name files
