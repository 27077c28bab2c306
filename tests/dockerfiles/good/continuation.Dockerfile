   # an indented comment
  from scratch as Base
	ENV a=1 \
    # a comment inside
    b=2 \

    c=3   \   
    d=4
ENV e=a\\
ENV f="x \
   y"
Label x=\
y
CMD [ "a", \
   "b" ]
