ARG BASE
FROM $BASE AS one
CMD ["one"]
FROM one
ENTRYPOINT ["two", "ü\"q"]
