require "net/http"
puts Net::HTTP.get(URI("https://up.test/hello/ruby"))
