FROM busybox
RUN <<EOF
echo one
  # not a comment
echo "two" \
EOF
RUN <<-END cat > /x && cat <<'RAW' >> /x
	tabs go
	END
$literal
RAW
COPY <<file <<-"other" plain /to/
$expanded
file
	$kept
	other
RUN ["echo", "<<NO"]
RUN echo "<<quoted" 'a<<b' 3<<<x
ONBUILD RUN <<E
trigger
E
