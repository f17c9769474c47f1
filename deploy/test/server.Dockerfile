# The real server for deploy/test/compose, from what .ci/peer-server built: a program of glibc, with its libraries, as ldd
# names them. deploy/test/compose lays out the context.
FROM scratch
COPY root /
COPY --chown=10001:10001 data /opt/data
USER 10001:10001
ENTRYPOINT []
CMD ["/job-orchestrator", "server"]
