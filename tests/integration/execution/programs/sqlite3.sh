# says: wal 5
sqlite3 db 'pragma journal_mode=wal; create table t(x); insert into t values(5); select x from t'
