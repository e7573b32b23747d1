//! Use cases: system, container, image, network and volume managers over the seams
