# says: joined
cat >script.c <<'EOF'
#include <pthread.h>
#include <stdio.h>
#include <time.h>
static void *run(void *x) { return x; }
int main(void) {
  pthread_t t; void *r; struct timespec w = {0, 1000};
  pthread_create(&t, 0, run, "joined"); pthread_join(t, &r);
  nanosleep(&w, 0); puts(r); return 0;
}
EOF
gcc -O2 -pthread -o c script.c; ./c
