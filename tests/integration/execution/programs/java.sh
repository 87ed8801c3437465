# says: 7
cat >A.java <<'EOF'
class A {
  public static void main(String[] a) throws Exception {
    Thread t = new Thread(() -> System.out.println(7)); t.start(); t.join();
  }
}
EOF
java -Xmx128m -XX:+UseSerialGC A.java
