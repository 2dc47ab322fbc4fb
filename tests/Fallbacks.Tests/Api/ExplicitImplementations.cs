using System.Reflection;

namespace Fallbacks.Tests.Api;

/// <summary>
/// Explicit implementations, with throwing bodies, of every interface a listed type names. The lists do not show
/// explicit members, so all members of an interface get one, whether or not a public member implements it already.
/// </summary>
internal static class ExplicitImplementations
{
    public static IEnumerable<string> Of(ApiType type, ApiList list) =>
        InterfaceClosure.Of(type, list).SelectMany(i => i.Listed is null ? OfFramework(i) : OfListed(i, i.Listed));

    private static IEnumerable<string> OfListed(ClosedInterface face, ApiType type)
    {
        string Close(string text) => InterfaceClosure.Substitute(text, type, face.Text);

        foreach (var member in type.Members)
        {
            var head = $"{Close(member.Type)} {face.Text}.@{member.Name}";
            yield return member.Kind == ApiMemberKind.Property
                ? $"{head} {StubWriter.WithBodies(member.Accessors)}"
                : $"{head}({string.Join(", ", member.Parameters.Select(p => $"{p.Modifiers} {Close(p.Type)} @{p.Name}"))}) => {StubWriter.Throw};";
        }
    }

    private static IEnumerable<string> OfFramework(ClosedInterface face)
    {
        string Parameters(ParameterInfo[] parameters) =>
            string.Join(", ", parameters.Select(p => (p.IsOut ? "out " : "") + InterfaceClosure.Name(p.ParameterType, face.Names) + " @" + p.Name));

        foreach (var method in face.Framework!.GetMethods().Where(m => m.IsAbstract && !m.IsSpecialName))
        {
            yield return $"{InterfaceClosure.Name(method.ReturnType, face.Names)} {face.Text}.{method.Name}({Parameters(method.GetParameters())}) => {StubWriter.Throw};";
        }

        foreach (var property in face.Framework.GetProperties())
        {
            var index = property.GetIndexParameters();
            var name = index.Length == 0 ? property.Name : $"this[{Parameters(index)}]";
            var accessors = (property.CanRead ? "get; " : "") + (property.CanWrite ? "set; " : "");
            yield return $"{InterfaceClosure.Name(property.PropertyType, face.Names)} {face.Text}.{name} {StubWriter.WithBodies($"{{ {accessors}}}")}";
        }
    }
}
