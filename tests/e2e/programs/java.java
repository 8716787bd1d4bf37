import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

class Java {
    public static void main(String[] arguments) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(System.getenv("URL"))).build();
        System.out.print(HttpClient.newHttpClient().send(request, BodyHandlers.ofString()).body());
        // The older client, which Gradle's and many libraries are built on.
        try (var answer = URI.create(System.getenv("URL")).toURL().openStream()) {
            answer.transferTo(System.out);
        }
    }
}
