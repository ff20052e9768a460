ARG BASE
FROM $BASE
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=1m30s --start-period=5s --retries=3 CMD curl -f http://localhost/ || exit 1
