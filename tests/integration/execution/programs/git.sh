# says: one two 2
git init -q r; cd r; git config user.name a; git config user.email b@c
git commit -q --allow-empty -m one; git clone -q . ../r2; git -C ../r2 log --format=%s
echo x >f; git add f; git commit -q -m two; git gc -q; git fsck 2>/dev/null
git worktree add -q ../r3; git -C ../r3 log -1 --format=%s; git rev-list --count HEAD
