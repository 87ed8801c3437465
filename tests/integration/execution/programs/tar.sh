# says: t/ t/f t/g t/p x
mkdir t; echo x >t/f; ln t/f t/g; mkfifo t/p
tar -cJf t.tar.xz t; rm -r t; tar -xf t.tar.xz; tar -tf t.tar.xz | sort; cat t/g
