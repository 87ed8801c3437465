# says: 1 2
ruby -e 'Thread.new { puts 1 }.join; puts `echo 2`'
