ARG BASE
FROM $BASE
ENV WHO=world
COPY <<EOF /hello.txt
hello ${WHO} 'q' "dq" \$x
EOF
COPY <<'EOF' <<-two /docs/
raw $WHO
EOF
	tabbed $WHO
two
COPY --chmod=755 <<EOF /bin/tool
#!/bin/sh
echo hi
EOF
