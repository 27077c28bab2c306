# escape=`
# a comment

FROM scratch
ENV a=c:\dir `
    b=1 c="`"quoted`"" d=`$a
LABEL path=c:\windows\
WORKDIR /x
